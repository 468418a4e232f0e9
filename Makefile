.PHONY: setup demo test bench torture torture-syscalls torture-processes fuzz matrix compat test-stores test-launch test-ecosystem lint docs check flags clean
setup demo test bench torture torture-syscalls torture-processes fuzz matrix compat test-stores test-launch test-ecosystem lint docs check flags clean:
	@python3 make.py $@
