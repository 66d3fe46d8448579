"""Who is whom: which id of which app is which customer, why, and since when. In the target, in the schema usersync.

`names` is what an app may be called, `domains` says what a text means as a domain, and which domains identify nobody; `place` is the
transaction in which the map is written, one writer at a time; `customers`, `merging`, `apps`, `mappings` and `conflicts` are what a
person does to it by hand;
`importing` and `exporting` do that with files; `stats` counts, `whois` answers;
`known_ids` are all ids that the target knows of an app;
`watch` sees the rows that a step writes, and `resolve` turns them into mappings, in the transaction of the rows.
"""
