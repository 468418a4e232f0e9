"""The field's standard comparison, in one command: `python -m benchmarks.standard`.

__main__           the command line: the sweep, the table, the page
sets               Beauty, Toys, Sports and Games in their standard form, checked; a small generated set
protocol           what a system is, and how every system's ranks are counted
systems            everything that is compared
ours               this project's own systems
popularity         baseline: the number of training interactions
item_knn           baseline: the nearest items by shared users
transition_rule    baseline: rings of the graph of transitions, without training
rectools_models    baseline: SASRec and eSASRec of RecTools, which is installed apart
sparse_rows        sparse matrices by rows, for the baselines without training
measure            one measurement in a process of its own
results            measurements as files, and which of them may be used again
summary            means over seeds, intervals, differences
published          figures that others have published, with their sources
table              the table on screen
page               docs/benchmarks.md
"""
