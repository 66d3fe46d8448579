"""People of WorkOS as `usersync users` knows them: their columns in the copy."""

from __future__ import annotations

from usersync_cli.shapes import UsersShape

USERS = UsersShape(
    stream="users",
    vendor="WorkOS",
    columns=(
        *("email", "first_name", "last_name", "email_verified", "profile_picture_url", "last_sign_in_at", "external_id", "metadata"),
        *("locale", "created_at", "updated_at", "deleted_at"),
    ),
    shown=("email", "first_name", "last_name", "external_id", "last_sign_in_at", "deleted_at"),
    memberships="organization_memberships",
    organizations="organizations",
)
