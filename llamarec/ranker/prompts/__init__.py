"""From items and titles to the tokens that the language model reads.

template            the text around history and candidates
tokenized_titles    titles cut to a number of tokens
encoding            prompts as token ids
training_samples    a prompt for each position of a history, with drawn candidates
evaluation_samples  a prompt for each user, with the retriever's candidates
first_stage         the retriever's score and the similarity of titles
"""
