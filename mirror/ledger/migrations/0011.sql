ALTER TABLE exports RENAME COLUMN ours TO counts_as_ours;
ALTER TABLE exports RENAME COLUMN barren TO attempts_without_gain;
ALTER TABLE exports RENAME COLUMN misses TO tries_without_file;
ALTER TABLE exports RENAME COLUMN part_plain TO ask_without_range;
