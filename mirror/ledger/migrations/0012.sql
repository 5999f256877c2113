-- What of a source is not fetched yet, nearest deadline first.
CREATE INDEX exports_urgent ON exports (source, deadline_us)
    WHERE state IN ('ready', 'fetching', 'parked');

-- When `verify` read a copy of a target; what it never read is not in it.
CREATE INDEX copies_checked ON copies (target, checked_us) WHERE checked_us > 0;
