.PHONY: setup demo test lint check clean
setup demo test lint check clean:
	@python3 make.py $@
