"""Raw files in, user histories out.

config          options of the stage
sources         the public data sets, one module each
tables          a user's own table
source          what a public data set consists of
raw             raw files found, fetched, or named in an error
ratings         a threshold of ratings
parquet         files written so that a full disk is called so
containers      compressed files and files in archives, opened by path
lines           text files in blocks; a malformed line by file and number
line_formats    what a format of lines consists of
delimited       delimited fields, quoted or not
json_lines      JSON lines
bad_lines       malformed lines, counted or refused
text_encodings  text in the encoding that a flag names
times           formats of times, recognised or given
calendar_dates  dates with marks between year, month and day
time_columns    a column of times as it is read, part by part
markup          remains of web pages in titles
recipe          titled items, k-core, ids, order, split
coded           interactions whose keys are numbers
figures         ties, shared titles and others, by which a person checks a prepared set
prepare         preparation, or reuse of what is prepared
prepared        a prepared set as later stages read it
inputs          hashes of the raw files
replacement     protection of data that a model was trained on
nothing_left    what is said where the recipe leaves nothing
near_keys       keys of two tables, or of one, that are nearly the same
summary         figures of a prepared set in its manifest, and as text
"""
