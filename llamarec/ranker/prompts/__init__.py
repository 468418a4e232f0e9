"""From items and titles to the tokens that the language model reads.

template             the prompt as data
tokenized_titles     titles, cut and tokenised once
encoding             a prompt as token ids
training_samples     a prompt for each training position, with negatives
evaluation_samples   a prompt for each user whose next item the retriever proposed
first_stage          scores of candidates without the language model
"""
