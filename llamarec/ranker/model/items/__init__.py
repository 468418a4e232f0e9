"""A language model that scores the whole catalogue after every item of a history.

    features   title embeddings of the base model, whitened
    head       vectors of users and items, their likelihood, what of it is trained
    stored     its files
    forward    the forward pass of the model: loss in training, user vectors in evaluation

Dimensions in names:

    B rows, L tokens of a row, A items of a row with a label, P labels of a batch
    D width of the language model, K width of user and item vectors, F features of a title
    N items, C items that a softmax is over
"""
