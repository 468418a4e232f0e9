"""Evaluation from ranks and scores alone; uses no model.

metrics           recall, NDCG and MRR at k
comparison        two rankings of the same users, with paired bootstrap intervals
logit             conditional logit: weights of evidence
fusion            letters and first stage in one score
catalogue         weights and ranks of two experts over the whole catalogue
candidate_orders  sensitivity to the order of candidates
outcome           all results of a test
tables            the tables and sentences at its end
catalogue_tables  the same for a test over the whole catalogue
"""
