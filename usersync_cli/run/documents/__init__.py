"""Steps of documents: streams that are read page by page, each page a checkpoint.

`step` reads the pages, `stream` is a stream on its way into its table, `record` a record of a page, `page` what is to be done with each of
them, `retry` tries rejects again, `create` makes a person at the source. How a page is loaded, which rows have left, and the memory of a
dry run, are private.
"""
