"""Checks at construction: a Trainer or a subclass in which something would be lost without a word is refused.

hooks         every member of the Trainer that checkpoints use
overrides     every method that a subclass may override, and which ones count
moved_models  callbacks of libraries that move a model beside the trained one
versions      what differs between versions of the libraries
"""
