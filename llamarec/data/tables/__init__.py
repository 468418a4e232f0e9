"""A user's own table of interactions, in the forms in which people have one.

table          the user's files as raw tables
files          the files of a table: one, one in an archive, or the parts in a folder
endings        what a file's name says
content        what a file holds, where that is not what its name says
conversions    what to type for a form that is not read
parts          one file of a table, with its columns
text           parts with delimited fields or JSON
json_forms     what a JSON file is: lines, one list, or a form that is not read
header         the columns that a text names
header_checks  first lines that are no header, or do not fit their records
suggestions    values of flags, guessed for a person to read
separators     what separates its fields
parquet        Parquet parts; values of any type as text
spreadsheet    a sheet of a workbook
rows           its rows under this package's names, block by block
numbers        columns of numbers
columns        which column is which
lists          rows that hold several interactions
order          times, a date and a clock, a column of numbers, or the order of the rows
order_checks   what is said of times that tell no order, or another one
time_forms     what is said where times are in no known form
"""
