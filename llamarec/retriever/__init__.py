"""Histories in, the top-k candidates of every user out: LRURec (Yue et al. 2023, arXiv 2310.02367).

config             options of the stage
train              a run from options to candidates
checks             options and data fit each other
model, scan        the network, and its linear recurrence
dropout, loss      the parts of training that are faster than torch's own
sampled_softmax    the loss over sampled items, for large catalogues
batches            sequences concatenated without padding
title_embeddings   initial item vectors from titles
word_vectors       the part of an item's vector that its title's words have learned
members            further models of other seeds
refit              the models once more, trained with the validation part too
learned_expert     the trained models as one of the experts
expert_stage       models, experts and their weights while a retriever is made
assess             candidates and ranks by the sum, and by each expert alone
fit                the training loop: validation, early stopping, exact resume
training_spec      which of a retriever's trainings it is
state              the training state on disk
progress           a bar or lines
scoring            ranks and top k over the whole catalogue
candidates         candidates.parquet
mining             hard negatives of a trained model
cross_fitting      hard negatives by retrievers that were not trained on their users
hard_negatives     hard_negatives.parquet
stored_tables      Parquet files that know what made them
published          the files published together, verified by each reader, and the folder's lock
rebuild_command    the command that makes a retriever's files again
dependent_rankers  rankers that were trained on a retriever
serving            a trained retriever for any history
"""
