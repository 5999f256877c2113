CREATE TABLE node (
    node_id TEXT NOT NULL,
    made_us INTEGER NOT NULL
) STRICT;

CREATE TABLE sources (
    name TEXT PRIMARY KEY,
    device_uuid TEXT NOT NULL,
    first_sweep_us INTEGER,
    poll_us INTEGER,
    poll_from_us INTEGER,
    sweep_us INTEGER,
    sweep_from_us INTEGER,
    last_success_us INTEGER,
    last_failure_us INTEGER,
    last_failure TEXT,
    problem TEXT,
    clock_offset_us INTEGER NOT NULL DEFAULT 0,
    bad_rows INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE targets (
    name TEXT PRIMARY KEY,
    marker_id TEXT,
    checked_us INTEGER,
    problem TEXT,
    free_bytes INTEGER
) STRICT;

CREATE TABLE exports (
    key INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    export_id INTEGER NOT NULL,
    created_key TEXT NOT NULL,
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
    attempts INTEGER NOT NULL,
    barren INTEGER NOT NULL,
    misses INTEGER NOT NULL,
    best_bytes INTEGER NOT NULL,
    last_error TEXT,
    spool_dir TEXT,
    part_bytes INTEGER NOT NULL,
    part_sha256 TEXT,
    part_total INTEGER,
    part_etag TEXT,
    part_modified TEXT,
    part_plain INTEGER NOT NULL,
    size_bytes INTEGER,
    sha256 TEXT,
    started_us INTEGER,
    spooled_us INTEGER,
    saved_us INTEGER,
    UNIQUE (source, export_id, created_key)
) STRICT;

CREATE INDEX exports_state ON exports (state, source);
CREATE INDEX exports_ready ON exports (source, order_us) WHERE state = 'ready';
CREATE INDEX exports_spool ON exports (state) WHERE spool_dir IS NOT NULL;
CREATE INDEX exports_created ON exports (created_us);

-- The list item as received, zlib-compressed, while it may still be published.
CREATE TABLE items (
    export INTEGER PRIMARY KEY REFERENCES exports (key),
    item BLOB NOT NULL
) STRICT;

CREATE TABLE attempts (
    export INTEGER NOT NULL REFERENCES exports (key),
    number INTEGER NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    started_us INTEGER NOT NULL,
    ended_us INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    offset_bytes INTEGER NOT NULL,
    held_bytes INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (export, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE copies (
    export INTEGER NOT NULL REFERENCES exports (key),
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    path TEXT,
    path_key TEXT,
    verified_us INTEGER,
    saved_us INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    due_us INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    PRIMARY KEY (export, target)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX copies_path ON copies (target, path_key) WHERE path_key IS NOT NULL;
CREATE INDEX copies_open ON copies (target, due_us, export)
    WHERE state IN ('pending', 'publishing', 'failed');

-- Counters that must not fall when the service restarts.
CREATE TABLE totals (
    source TEXT NOT NULL,
    event TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    total INTEGER NOT NULL,
    PRIMARY KEY (source, event, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE bad_rows (
    source TEXT NOT NULL,
    digest TEXT NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    times INTEGER NOT NULL,
    error TEXT NOT NULL,
    raw TEXT NOT NULL,
    PRIMARY KEY (source, digest)
) STRICT, WITHOUT ROWID;
