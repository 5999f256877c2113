-- What happened and the command of `on_event` was not told yet; filled only while there
-- is one.
ALTER TABLE node ADD COLUMN tells INTEGER NOT NULL DEFAULT 0;

CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL DEFAULT
        (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
    event TEXT NOT NULL,
    export INTEGER,
    name TEXT,
    problem TEXT
) STRICT;

CREATE TRIGGER exports_tell AFTER UPDATE OF state ON exports
WHEN NEW.state <> OLD.state AND (SELECT tells FROM node)
    AND (NEW.state IN ('saved', 'damaged') OR NEW.state = 'lost' AND NEW.ours = 1)
BEGIN
    INSERT INTO events (event, export) VALUES ('export.' || NEW.state, NEW.key);
END;

CREATE TRIGGER sources_tell AFTER UPDATE OF problem ON sources
WHEN (NEW.problem IS NULL) <> (OLD.problem IS NULL) AND (SELECT tells FROM node)
BEGIN
    INSERT INTO events (event, name, problem) VALUES (
        iif(NEW.problem IS NULL, 'source.recovered', 'source.lost'),
        NEW.name, NEW.problem
    );
END;

CREATE TRIGGER targets_tell AFTER UPDATE OF problem ON targets
WHEN (NEW.problem IS NULL) <> (OLD.problem IS NULL) AND (SELECT tells FROM node)
BEGIN
    INSERT INTO events (event, name, problem) VALUES (
        iif(NEW.problem IS NULL, 'target.recovered', 'target.lost'),
        NEW.name, NEW.problem
    );
END;
