-- How many exports there are, so that nobody has to count them; triggers keep it, and
-- the whole ledger is compared with it after each start.
CREATE TABLE counts (
    source TEXT NOT NULL,
    state TEXT NOT NULL,
    -- Had a file and is not saved.
    owed INTEGER NOT NULL,
    number INTEGER NOT NULL,
    row_sum INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (source, state, owed)
) STRICT, WITHOUT ROWID;

INSERT INTO counts (source, state, owed, number)
SELECT source, state, had_file = 1 AND (
    state IN ('ready', 'fetching', 'parked', 'spooled')
    OR (state = 'waiting' AND reason IS 'file_gone')
) AS owed, count(*)
FROM exports GROUP BY source, state, owed;

CREATE TRIGGER exports_count_added AFTER INSERT ON exports
BEGIN
    INSERT INTO counts (source, state, owed, number) VALUES (
        NEW.source, NEW.state, NEW.had_file = 1 AND (
            NEW.state IN ('ready', 'fetching', 'parked', 'spooled')
            OR (NEW.state = 'waiting' AND NEW.reason IS 'file_gone')
        ), 1
    ) ON CONFLICT DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER exports_count_removed AFTER DELETE ON exports
BEGIN
    UPDATE counts SET number = number - 1
    WHERE source = OLD.source AND state = OLD.state AND owed = (
        OLD.had_file = 1 AND (
            OLD.state IN ('ready', 'fetching', 'parked', 'spooled')
            OR (OLD.state = 'waiting' AND OLD.reason IS 'file_gone')
        )
    );
END;

CREATE TRIGGER exports_count_changed AFTER UPDATE OF state, had_file, reason ON exports
WHEN OLD.state <> NEW.state OR OLD.had_file <> NEW.had_file
    OR (NEW.state = 'waiting' AND OLD.reason IS NOT NEW.reason)
BEGIN
    UPDATE counts SET number = number - 1
    WHERE source = OLD.source AND state = OLD.state AND owed = (
        OLD.had_file = 1 AND (
            OLD.state IN ('ready', 'fetching', 'parked', 'spooled')
            OR (OLD.state = 'waiting' AND OLD.reason IS 'file_gone')
        )
    );
    INSERT INTO counts (source, state, owed, number) VALUES (
        NEW.source, NEW.state, NEW.had_file = 1 AND (
            NEW.state IN ('ready', 'fetching', 'parked', 'spooled')
            OR (NEW.state = 'waiting' AND NEW.reason IS 'file_gone')
        ), 1
    ) ON CONFLICT DO UPDATE SET number = number + 1;
END;

-- What is asked often, however many exports there are.
CREATE INDEX exports_deadline ON exports (deadline_us)
    WHERE state IN ('ready', 'fetching', 'parked');
CREATE INDEX exports_walk ON exports (walk_us) WHERE state IN ('ready', 'fetching');
CREATE INDEX exports_due ON exports (source, due_us) WHERE state = 'ready';
CREATE INDEX exports_parked ON exports (due_us, source) WHERE state = 'parked';
DROP INDEX exports_ready;
CREATE INDEX exports_ready ON exports (source, order_us, due_us) WHERE state = 'ready';
CREATE INDEX exports_lost ON exports (source) WHERE state = 'lost' AND ours = 1;
CREATE INDEX exports_vanishing ON exports (source, deadline_us)
    WHERE had_file = 1 AND state IN ('waiting', 'ready', 'parked')
    AND (without_walks > 0 OR absent_sweeps > 0);
DROP INDEX exports_created;
CREATE INDEX exports_created ON exports (created_us, export_id DESC);

-- Rows of the last walk that were not taken in: there were too many without a file.
ALTER TABLE sources ADD COLUMN left_out INTEGER NOT NULL DEFAULT 0;
-- A clock put back by so much, and the keys of the exports that are still to follow it.
ALTER TABLE sources ADD COLUMN shift_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sources ADD COLUMN shift_next INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sources ADD COLUMN shift_last INTEGER NOT NULL DEFAULT 0;
