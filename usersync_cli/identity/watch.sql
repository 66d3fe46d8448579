-- What is remembered of who fills an app.

-- name: add_app
INSERT INTO usersync.apps (name, added_by) VALUES (%(app)s, %(by)s) ON CONFLICT DO NOTHING

-- name: remember
INSERT INTO usersync.identities AS i (app, job, step, stream, relation, id_column, live, fingerprint, lists, run_id)
VALUES (%(app)s, %(job)s, %(step)s, %(stream)s, %(relation)s, %(id)s, %(live)s, %(fingerprint)s, %(lists)s, %(run)s)
ON CONFLICT (app, job, step, stream) DO UPDATE
   SET relation = excluded.relation, id_column = excluded.id_column, live = excluded.live, fingerprint = excluded.fingerprint,
       lists = excluded.lists, run_id = excluded.run_id, evaluated_at = now()
 WHERE (i.relation, i.id_column, i.live, i.fingerprint, i.lists)
       IS DISTINCT FROM (excluded.relation, excluded.id_column, excluded.live, excluded.fingerprint, excluded.lists)
