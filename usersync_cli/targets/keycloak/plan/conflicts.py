"""Reasons of conflicts, and the SQL by which more than one part of a plan finds them."""

from __future__ import annotations

REFUSED = "refused_by_keycloak"  # reason of a reject: the server said so, and is not asked again about the same person
MAIL_FAILED = "mail_failed"
STILL_ENABLED = "still_enabled"  # somebody left, and the server refuses to disable the account
# Of a person whose conflict is whole, nothing is done.
WHOLE = """
UPDATE pg_temp.usersync_people AS p SET whole = true FROM pg_temp.usersync_conflicts AS c WHERE c.id = p.id AND c.whole AND NOT p.whole
"""
# Whose account is in the way: t is the account, `a` what we know of it.
OWNER_KNOWN = """
LEFT JOIN LATERAL (
    SELECT a.disabled FROM pg_temp.usersync_accounts AS a WHERE a.account = t.id ORDER BY a.disabled DESC LIMIT 1
) AS a ON true
"""
OF_NOBODY = "t.usersync_id IS NOT NULL AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.id = t.usersync_id)"
LEFT_BEHIND = f"""
WHEN {OF_NOBODY}
THEN 'account ' || t.id || ' has it, whose person the source no longer has; ' ||
     CASE WHEN t.enabled THEN 'still enabled' WHEN a.disabled THEN 'disabled by usersync' ELSE 'not disabled by usersync' END ||
     '. The same person? usersync keycloak set-id ' || t.id || ' KEY, then run again; if not, give that account another one'
WHEN t.usersync_id IS NOT NULL THEN 'account ' || t.id || ' has it, of another person at the source'
"""
