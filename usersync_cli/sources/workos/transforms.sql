-- One SELECT for each stream, over `records` (key, data, ...): the columns that people use, then the document itself.
-- A value that is not of its column's type sets that record aside; a field that is not there is NULL.

-- name: users
SELECT key AS id,
       data ->> 'email' AS email,
       data ->> 'first_name' AS first_name,
       data ->> 'last_name' AS last_name,
       (data ->> 'email_verified')::boolean AS email_verified,
       data ->> 'profile_picture_url' AS profile_picture_url,
       (data ->> 'last_sign_in_at')::timestamptz AS last_sign_in_at,
       data ->> 'external_id' AS external_id,
       NULLIF(data -> 'metadata', 'null') AS metadata,
       data ->> 'locale' AS locale,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: organizations
SELECT key AS id,
       data ->> 'name' AS name,
       ARRAY(
           SELECT domain ->> 'domain'
             FROM jsonb_array_elements(CASE jsonb_typeof(data -> 'domains') WHEN 'array' THEN data -> 'domains' END) AS domain
            WHERE domain ->> 'domain' IS NOT NULL
            ORDER BY domain ->> 'domain' COLLATE "C"
       ) AS domains,
       data ->> 'external_id' AS external_id,
       data ->> 'stripe_customer_id' AS stripe_customer_id,
       NULLIF(data -> 'metadata', 'null') AS metadata,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: organization_memberships
SELECT key AS id,
       data ->> 'user_id' AS user_id,
       data ->> 'organization_id' AS organization_id,
       data ->> 'organization_name' AS organization_name,
       data #>> '{role,slug}' AS role_slug,
       data ->> 'status' AS status,
       (data ->> 'directory_managed')::boolean AS directory_managed,
       NULLIF(data -> 'custom_attributes', 'null') AS custom_attributes,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: directories
SELECT key AS id,
       data ->> 'organization_id' AS organization_id,
       data ->> 'name' AS name,
       data ->> 'type' AS type,
       data ->> 'state' AS state,
       data ->> 'domain' AS domain,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: directory_users
SELECT key AS id,
       data ->> 'directory_id' AS directory_id,
       data ->> 'organization_id' AS organization_id,
       data ->> 'idp_id' AS idp_id,
       data ->> 'email' AS email,
       data ->> 'first_name' AS first_name,
       data ->> 'last_name' AS last_name,
       data ->> 'job_title' AS job_title,
       data ->> 'state' AS state,
       data #>> '{role,slug}' AS role_slug,
       NULLIF(data -> 'custom_attributes', 'null') AS custom_attributes,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: directory_groups
SELECT key AS id,
       data ->> 'directory_id' AS directory_id,
       data ->> 'organization_id' AS organization_id,
       data ->> 'idp_id' AS idp_id,
       data ->> 'name' AS name,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: connections
SELECT key AS id,
       data ->> 'organization_id' AS organization_id,
       data ->> 'name' AS name,
       data ->> 'connection_type' AS connection_type,
       data ->> 'state' AS state,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: roles
SELECT key AS id,
       data ->> 'slug' AS slug,
       data ->> 'name' AS name,
       data ->> 'description' AS description,
       data ->> 'type' AS type,
       ARRAY(
           SELECT permission
             FROM jsonb_array_elements_text(CASE jsonb_typeof(data -> 'permissions') WHEN 'array' THEN data -> 'permissions' END) AS permission
            ORDER BY permission COLLATE "C"
       ) AS permissions,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: invitations
SELECT key AS id,
       data ->> 'email' AS email,
       data ->> 'state' AS state,
       data ->> 'organization_id' AS organization_id,
       data ->> 'inviter_user_id' AS inviter_user_id,
       data ->> 'accepted_user_id' AS accepted_user_id,
       (data ->> 'accepted_at')::timestamptz AS accepted_at,
       (data ->> 'revoked_at')::timestamptz AS revoked_at,
       (data ->> 'expires_at')::timestamptz AS expires_at,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at,
       (data ->> 'updated_at')::timestamptz AS updated_at
  FROM records

-- name: events
SELECT key AS id,
       data ->> 'event' AS event,
       data #>> '{data,object}' AS object,
       data #>> '{data,id}' AS object_id,
       COALESCE(data #>> '{data,user_id}', CASE data #>> '{data,object}' WHEN 'user' THEN data #>> '{data,id}' END) AS user_id,
       COALESCE(data #>> '{data,organization_id}', CASE data #>> '{data,object}' WHEN 'organization' THEN data #>> '{data,id}' END)
           AS organization_id,
       data AS document,
       (data ->> 'created_at')::timestamptz AS created_at
  FROM records
