-- Left alone from the one instant to the other.
ALTER TABLE sources ADD COLUMN paused_from_us INTEGER;
ALTER TABLE sources ADD COLUMN paused_until_us INTEGER;
ALTER TABLE targets ADD COLUMN paused_from_us INTEGER;
ALTER TABLE targets ADD COLUMN paused_until_us INTEGER;

-- When somebody took note of a loss, and what he had to say of it.
ALTER TABLE exports ADD COLUMN acknowledged_us INTEGER;
ALTER TABLE exports ADD COLUMN note TEXT;

CREATE INDEX exports_unacknowledged ON exports (source)
    WHERE state = 'lost' AND ours = 1 AND acknowledged_us IS NULL;
