-- A checksum over the rest of its row, in each row; see soundness.py.
ALTER TABLE node ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sources ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE targets ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exports ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE items ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE copies ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE totals ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE bad_rows ADD COLUMN row_sum INTEGER NOT NULL DEFAULT 0;

-- How many transactions changed anything; the last number is also kept outside.
CREATE TABLE commits (
    number INTEGER NOT NULL
) STRICT;
INSERT INTO commits VALUES (0);
