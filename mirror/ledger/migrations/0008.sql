-- Attempts in a row that ended because they took too long.
ALTER TABLE exports ADD COLUMN timeouts INTEGER NOT NULL DEFAULT 0;
CREATE INDEX exports_timeouts ON exports (source)
    WHERE timeouts > 1 AND state IN ('ready', 'fetching', 'parked');
CREATE INDEX attempts_without_room ON attempts (export, number)
    WHERE outcome = 'spool_full';
