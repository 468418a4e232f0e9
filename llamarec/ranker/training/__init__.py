"""A ranker's training, from the options to the final test.

run           the steps of `train_ranker.py`
apply_plan    the plan of a run, and the run with what it decided
fingerprints  what identifies a run
init_adapter  the first weights, if they are those of another adapter
trainer       the Trainer subclass
fusion_fit    the weights of retriever, titles and letters
final_test    ranks of the test users
"""
