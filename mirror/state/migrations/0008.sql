-- Attempts in a row that ended because they took too long.
ALTER TABLE exports ADD COLUMN timeouts INTEGER NOT NULL DEFAULT 0;
