.PHONY: setup demo test bench torture torture-syscalls torture-processes fuzz matrix compat test-stores test-launch test-ray test-ecosystem lint docs check flags clean
setup demo test bench torture torture-syscalls torture-processes fuzz matrix compat test-stores test-launch test-ray test-ecosystem lint docs check flags clean:
.PHONY: setup demo test bench torture torture-syscalls fuzz matrix compat test-ecosystem test-stores test-ray lint docs check flags clean
setup demo test bench torture torture-syscalls fuzz matrix compat test-ecosystem test-stores test-ray lint docs check flags clean:
	@python3 make.py $@
