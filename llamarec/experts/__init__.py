"""What needs no training says of the next item, beside a trained model: a sum of experts over the whole catalogue.

queries          what is asked: histories, and when
known            the interactions that may be counted when a question is asked
history_matrix   histories as sparse rows, older items with less weight
pair_counts      how often one item follows another
transitions      what people take next after the items of a history
neighbours       what people have who have the items of a history
title_words      titles as TF-IDF vectors
titles           similarity of titles to those of a history
popularity       how many took an item, and whether they took it lately
returns          what the user took before, where people come back
build            the experts of a data set
expert_sum       the weighted sum, the best items by it, and each expert's part
prompts          validation prompts over the union of what the experts propose
weights          the experts that count, and their weights, by validation; experts.json
reasons          why an item is recommended, in words
"""
