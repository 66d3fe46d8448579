"""What differs between the people that are desired and the accounts of a realm: SQL over temp tables of one transaction.

`people` stages who is desired, as `usersync_people`; `inventory` the realm's accounts, as `usersync_there`, with their roles and
groups, as `usersync_held`. `usersync_accounts` is whose account is whose as far as earlier runs wrote down. From them `link` and
`differences` find `usersync_conflicts`, for a person to decide, and `usersync_planned`, the calls for each person; `deletes` finds
`usersync_leaving`, whose people the source no longer has. `known` brings what is remembered up to date, `summary` counts, and
`conflicts` has the reasons.

Keycloak stores user names and e-mail addresses in lower case, and compares them so.
"""
