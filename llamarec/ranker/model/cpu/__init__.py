"""Training and scoring on a CPU, prompt by prompt, with a backward pass of its own.

A batch of padded prompts suits a GPU. A CPU is fastest with one prompt at a time on one core: the products of one
prompt's tokens already run at full rate, nothing is padded, and no core waits for another. The base model is frozen, so
its backward pass is known and short: none of its weights needs a gradient, and little of the forward pass must be kept.

    thread_pool   one prompt on each core
    buffers       memory that one prompt leaves to the next
    ops           norm, rotary embedding, gated feed-forward, each with its backward pass
    attention     causal grouped-query attention in blocks
    projection    a linear layer with its LoRA
    layer         a decoder layer
    form          which models are computed this way, and their weights
    decoder       all layers, and the head that prompts have in common
    step          a batch of prompts on all cores: letter logits, loss, gradients
    pooled        means of the hidden states of short texts
    packed        a batch of histories, several in a pass: user vectors, loss, gradients

The result is that of the modules' own forward pass, to rounding (tests/ranker/model/cpu). Dropout draws other random
numbers.

Dimensions in names and comments:

    L tokens of a prompt, S tokens of the common head before them, T = S + L
    Q of the L tokens, those with a query: the last layer has one, at the answer
    D width, F width of the feed-forward part, N inputs and M outputs of a linear layer, R rank of LoRA
    G groups of heads with one key, H query heads of a group, K width of a head
"""
