-- What the ETag of an export's file is good for, whether the date of the partial is that
-- of one version alone, and how often in a row the first byte came too late.
ALTER TABLE exports ADD COLUMN etag_use TEXT NOT NULL DEFAULT 'guards';
ALTER TABLE exports ADD COLUMN part_firm INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exports ADD COLUMN late INTEGER NOT NULL DEFAULT 0;
