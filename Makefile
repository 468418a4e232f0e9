.PHONY: setup demo test bench torture compat lint docs check flags clean
setup demo test bench torture compat lint docs check flags clean:
	@python3 make.py $@
