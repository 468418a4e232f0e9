"""Recommendations from a run: what its first stage proposes, in the order of its ranker.

recommender   a trained run as one object
orders        what orders the items: the one difference between runs
letter_order  the first stage's candidates, by letters
sum_order     the whole catalogue, by the sum of all experts
catalogue     items by key or title
requests      files of users or histories
batch         recommendations for such a file
answers       to a block of it
engines       who computes the blocks: this process
ray_engine    or workers on Ray
ray_worker    one of them
ray_cluster   the machines that they are on
"""
