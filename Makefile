.PHONY: setup demo test torture lint check clean
setup demo test torture lint check clean:
	@python3 make.py $@
