"""Trained rankers on disk.

locations       where the results and checkpoints of a run are
loading         a run's options, prompt and best adapter
serving         a ranker that orders any candidates
item_expert     a run of --readout items that scores the catalogue
read_histories  histories that its language model has read
final_fusion    the weights of the final score of letters
final_experts   the weights of all experts with --readout items
retrain         the command that trains a run again
"""
