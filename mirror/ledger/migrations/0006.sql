-- A file that changed is a further version of its export, in a row of its own.
CREATE TABLE exports_with_versions (
    key INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    export_id INTEGER NOT NULL,
    created_key TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    created_at TEXT,
    created_us INTEGER,
    updated_at TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    name TEXT,
    camera_id INTEGER,
    stream_type TEXT,
    footage_from TEXT,
    footage_to TEXT,
    user_id INTEGER,
    url TEXT,
    has_file INTEGER NOT NULL,
    first_seen_us INTEGER NOT NULL,
    ours INTEGER NOT NULL,
    had_file INTEGER NOT NULL,
    deadline_us INTEGER,
    order_us INTEGER NOT NULL,
    walk_us INTEGER NOT NULL,
    without_us INTEGER,
    without_walk_us INTEGER,
    without_walks INTEGER NOT NULL,
    absent_sweeps INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    not_before_us INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL,
    barren INTEGER NOT NULL,
    misses INTEGER NOT NULL,
    best_bytes INTEGER NOT NULL,
    last_error TEXT,
    spool_dir TEXT,
    part_number INTEGER NOT NULL DEFAULT 1,
    part_bytes INTEGER NOT NULL,
    part_sha256 TEXT,
    part_total INTEGER,
    part_etag TEXT,
    part_modified TEXT,
    part_plain INTEGER NOT NULL,
    held_dir TEXT,
    held_number INTEGER,
    held_bytes INTEGER,
    held_sha256 TEXT,
    held_etag TEXT,
    held_modified TEXT,
    held_doubt TEXT,
    held_started_us INTEGER,
    held_us INTEGER,
    held_until_us INTEGER,
    bodies INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER,
    sha256 TEXT,
    proof TEXT,
    doubt TEXT,
    proof_notes TEXT,
    look_due_us INTEGER,
    looks INTEGER NOT NULL DEFAULT 0,
    looked_us INTEGER NOT NULL DEFAULT 0,
    look_total INTEGER,
    look_etag TEXT,
    look_modified TEXT,
    drops INTEGER NOT NULL DEFAULT 0,
    started_us INTEGER,
    spooled_us INTEGER,
    saved_us INTEGER,
    acknowledged_us INTEGER,
    note TEXT,
    row_sum INTEGER NOT NULL DEFAULT 0,
    UNIQUE (source, export_id, created_key, version)
) STRICT;

INSERT INTO exports_with_versions (
    key, source, export_id, created_key, created_at, created_us, updated_at, state,
    reason, name, camera_id, stream_type, footage_from, footage_to, user_id, url,
    has_file, first_seen_us, ours, had_file, deadline_us, order_us, walk_us, without_us,
    without_walk_us, without_walks, absent_sweeps, due_us, attempts, barren, misses,
    best_bytes, last_error, spool_dir, part_bytes, part_sha256, part_total, part_etag,
    part_modified, part_plain, size_bytes, sha256, proof, started_us, spooled_us,
    saved_us, acknowledged_us, note
)
SELECT
    key, source, export_id, created_key, created_at, created_us, updated_at, state,
    reason, name, camera_id, stream_type, footage_from, footage_to, user_id, url,
    has_file, first_seen_us, ours, had_file, deadline_us, order_us, walk_us, without_us,
    without_walk_us, without_walks, absent_sweeps, due_us, attempts, barren, misses,
    best_bytes, last_error, spool_dir, part_bytes, part_sha256, part_total, part_etag,
    part_modified, part_plain, size_bytes, sha256, iif(sha256 IS NULL, NULL, 'whole'),
    started_us, spooled_us, saved_us, acknowledged_us, note
FROM exports;

DROP TABLE exports;
ALTER TABLE exports_with_versions RENAME TO exports;

CREATE INDEX exports_state ON exports (state, source);
CREATE INDEX exports_ready ON exports (source, order_us) WHERE state = 'ready';
CREATE INDEX exports_spool ON exports (state) WHERE spool_dir IS NOT NULL;
CREATE INDEX exports_created ON exports (created_us);
CREATE INDEX exports_unacknowledged ON exports (source)
    WHERE state = 'lost' AND ours = 1 AND acknowledged_us IS NULL;
CREATE INDEX exports_held ON exports (held_until_us) WHERE held_until_us IS NOT NULL;
CREATE INDEX exports_look ON exports (look_due_us) WHERE look_due_us IS NOT NULL;

CREATE TRIGGER exports_tell AFTER UPDATE OF state ON exports
WHEN NEW.state <> OLD.state AND (SELECT tells FROM node)
    AND (
        NEW.state IN ('saved', 'doubtful', 'damaged')
        OR NEW.state = 'lost' AND NEW.ours = 1
    )
BEGIN
    INSERT INTO events (event, export) VALUES ('export.' || NEW.state, NEW.key);
END;

-- Which validators were seen to differ though the bytes were the same.
ALTER TABLE sources ADD COLUMN etag_empty INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sources ADD COLUMN modified_empty INTEGER NOT NULL DEFAULT 0;

-- The path a whole file has under the base that the copy claims, compared as paths are.
ALTER TABLE copies ADD COLUMN base_key TEXT;
UPDATE copies SET base_key = path_key;
CREATE INDEX copies_base ON copies (target, base_key) WHERE base_key IS NOT NULL;
