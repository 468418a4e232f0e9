.PHONY: setup demo test bench torture torture-syscalls fuzz matrix compat test-ecosystem lint docs check flags clean
setup demo test bench torture torture-syscalls fuzz matrix compat test-ecosystem lint docs check flags clean:
	@python3 make.py $@
