.PHONY: setup demo test bench torture lint check flags clean
setup demo test bench torture lint check flags clean:
	@python3 make.py $@
