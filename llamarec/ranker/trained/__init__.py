"""Trained rankers on disk: found, loaded, served.

locations     where a run is, and the data it was made from
loading       options, prompt, tokenizer and best adapter, checked
final_fusion  the weights fitted after training
serving       orders any candidates
retrain       the command that trains a ranker again
"""
