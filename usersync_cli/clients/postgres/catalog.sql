-- What catalog.py asks of PostgreSQL's catalog. `equality` and `operator` are parts of other statements; {...} is filled in there.

-- name: locate
SELECT c.oid FROM unnest(%s::text[]) WITH ORDINALITY AS s(name, i)
  JOIN pg_catalog.pg_namespace n ON n.nspname = s.name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 't')
 ORDER BY s.i LIMIT 1

-- name: table
-- {found} is `locate`.
SELECT c.oid, n.nspname, c.relname, c.relkind::text,
       EXISTS (SELECT FROM pg_catalog.pg_trigger g
                WHERE (g.tgrelid = c.oid OR g.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p))
                  AND NOT g.tgisinternal AND g.tgenabled <> 'D')
       OR EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) p JOIN pg_catalog.pg_class f ON f.oid = p.relid AND f.relkind = 'f'),
       EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ({found})

-- name: columns
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.format_type(a.atttypid, -1),
       a.attnotnull OR base.not_null, a.atthasdef OR t.typdefault IS NOT NULL, a.attidentity::text, a.attgenerated <> '',
       CASE WHEN a.attcollation <> t.typcollation
            THEN (SELECT quote_ident(n.nspname) || '.' || quote_ident(l.collname)
                    FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                   WHERE l.oid = a.attcollation)
            ELSE '' END,
       t.typtype = 'e', {equality},
       pg_catalog.format_type(base.oid, -1), base.typtype = 'c', COALESCE({operator}, 'pg_catalog.=')
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  CROSS JOIN LATERAL (
       WITH RECURSIVE b AS (SELECT t.oid, t.typtype, t.typbasetype, t.typnotnull AS not_null
           UNION ALL SELECT y.oid, y.typtype, y.typbasetype, b.not_null OR y.typnotnull
                       FROM pg_catalog.pg_type y JOIN b ON y.oid = b.typbasetype)
       SELECT b.oid, b.typtype, b.not_null FROM b WHERE b.typtype <> 'd') AS base
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum

-- name: unique
-- The columns of each usable unique index: unique, complete, immediate: what ON CONFLICT can use.
SELECT array_agg(a.attname::text)
  FROM pg_catalog.pg_index i
  JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord) ON k.ord <= i.indnkeyatts
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
 GROUP BY i.indexrelid

-- name: unique_values
-- Columns that any unique or exclusion index depends on, expressions and predicates included.
SELECT DISTINCT a.attname::text
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0 AND (a.attnum = ANY (i.indkey::int2[]) OR EXISTS (
       SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
 WHERE i.indrelid = %s AND (i.indisunique OR i.indisexclusion) AND a.attname = ANY (%s)

-- name: equality
-- Whether values of the type {type} can be compared. An operator class for hash or btree is what IS DISTINCT FROM needs; for an array, that of its elements.
EXISTS (
    SELECT FROM pg_catalog.pg_type y
      JOIN pg_catalog.pg_type e
        ON e.oid = CASE WHEN y.typcategory = 'A' AND y.typelem <> 0 THEN y.typelem WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END
     WHERE y.oid = {type}
       AND (e.typtype IN ('e', 'r', 'm', 'c', 'd') OR EXISTS (
            SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
             WHERE o.opcdefault AND (o.opcintype = e.oid OR EXISTS (
                   SELECT FROM pg_catalog.pg_cast k
                    WHERE k.castsource = e.oid AND k.casttarget = o.opcintype AND k.castmethod = 'b' AND k.castcontext = 'i')))))

-- name: operator
-- The operator of equality of the type `base.oid`: that of its own default operator class. Where it has none, PostgreSQL's own =
-- is the one: text for varchar, or that of all arrays, enums, ranges and rows, which asks the classes of what they hold.
(
    SELECT quote_ident(n.nspname) || '.' || p.oprname
      FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
      JOIN pg_catalog.pg_amop s ON s.amopfamily = o.opcfamily AND s.amoplefttype = o.opcintype AND s.amoprighttype = o.opcintype
                               AND s.amopstrategy = CASE m.amname WHEN 'btree' THEN 3 ELSE 1 END
      JOIN pg_catalog.pg_operator p ON p.oid = s.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
     WHERE o.opcdefault AND o.opcintype = base.oid ORDER BY m.amname LIMIT 1)

-- name: operator_of
SELECT COALESCE({operator}, 'pg_catalog.=')
  FROM (SELECT COALESCE(NULLIF(t.typbasetype, 0), t.oid) AS oid FROM pg_catalog.pg_type t WHERE t.oid = %s::regtype) AS base

-- name: read_by
SELECT DISTINCT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
  FROM pg_catalog.pg_rewrite r
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
                             AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
  JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE r.ev_class = %s ORDER BY 1

-- name: locked
SELECT DISTINCT pg_catalog.format('%%I.%%I', n.nspname, s.relname)
  FROM pg_catalog.pg_attrdef f
  JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
                             AND d.refclassid = 'pg_catalog.pg_class'::regclass
  JOIN pg_catalog.pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
 WHERE f.adrelid = %s AND a.attname = ANY (%s)
   AND CASE WHEN s.relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(s.oid, 'USAGE, UPDATE') END
 ORDER BY 1

-- name: sequences
-- Sequences of a table's columns, only those that may be looked at; each numbers upwards. An index makes the largest number cheap to find.
SELECT s.oid, pg_catalog.format('%%I.%%I', n.nspname, s.relname), a.attname
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
   AND d.refobjid = %s AND a.attname = ANY (%s) AND pg_catalog.has_table_privilege(d.refobjid, 'SELECT')
   AND CASE WHEN s.relkind = 'S' THEN pg_catalog.has_sequence_privilege(s.oid, 'USAGE, SELECT') END
   AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = d.refobjid AND i.indkey[0] = a.attnum)
 ORDER BY 2

-- name: others
-- Who else may create something in these schemas.
-- pg_has_role() says yes to every question of a superuser, so membership is followed by hand. The owner of the database is the
-- only member of pg_database_owner.
WITH RECURSIVE me AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user),
     ups AS (SELECT m.roleid AS oid FROM pg_catalog.pg_auth_members m JOIN me ON m.member = me.oid
             UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN ups ON m.member = ups.oid),
     downs AS (SELECT m.member AS oid FROM pg_catalog.pg_auth_members m JOIN me ON m.roleid = me.oid
               UNION SELECT m.member FROM pg_catalog.pg_auth_members m JOIN downs ON m.roleid = downs.oid),
     may AS (SELECT n.nspname, a.grantee, a.grantee = n.nspowner AS owns
               FROM pg_catalog.pg_namespace n
              CROSS JOIN LATERAL (SELECT x.grantee FROM aclexplode(n.nspacl) AS x WHERE x.privilege_type = 'CREATE'
                                  UNION SELECT n.nspowner) AS a
              WHERE n.nspname = ANY (%s::text[]) AND n.nspname <> 'pg_catalog'),
     real AS (SELECT may.nspname, may.owns,
                     CASE WHEN r.rolname = 'pg_database_owner'
                          THEN (SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = current_database())
                          ELSE may.grantee END AS grantee
                FROM may LEFT JOIN pg_catalog.pg_roles r ON r.oid = may.grantee)
SELECT DISTINCT quote_ident(real.nspname), COALESCE(quote_ident(r.rolname), 'PUBLIC'), real.owns
  FROM real LEFT JOIN pg_catalog.pg_roles r ON r.oid = real.grantee
 WHERE r.rolsuper IS NOT TRUE AND real.grantee NOT IN (SELECT oid FROM me UNION ALL SELECT oid FROM ups UNION ALL SELECT oid FROM downs)
 ORDER BY 1, 2
