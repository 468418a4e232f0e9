"""From items and titles to the tokens that the language model reads.

template             the prompt as data
tokenized_titles     titles, cut and tokenised once
encoding             a prompt as token ids
training_samples     a prompt for each training position, with negatives
evaluation_samples   a prompt for each user whose next item the retriever proposed
history_text         a history as one text, for --readout items
history_samples      windows of histories with the items that follow, and the users of an evaluation
first_stage          scores of candidates without the language model
"""
