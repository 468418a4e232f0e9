"""A user's own table of interactions, in the forms in which people have one.

table     the user's files as raw tables
header    the columns that a text table names
columns   which column is which
"""
