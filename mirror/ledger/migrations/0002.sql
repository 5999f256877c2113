-- When a kept copy was last read or tried to be, good or not; `verified_us` is when it
-- was last proven good.
ALTER TABLE copies ADD COLUMN checked_us INTEGER NOT NULL DEFAULT 0;

CREATE INDEX copies_damaged ON copies (target) WHERE state = 'damaged';
