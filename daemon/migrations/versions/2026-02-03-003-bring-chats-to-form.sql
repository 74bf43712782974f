-- description: Bring wpp_chats to its form: utf8mb4, milliseconds, BIGINT ids, indexes
-- A NULL where central has none is a value that the comparison with central mends afterwards.

UPDATE wpp_chats SET
    original_id = COALESCE(original_id, id),
    instance = COALESCE(instance, ''),
    type = COALESCE(type, ''),
    is_finished = COALESCE(is_finished, 0),
    is_schedule = COALESCE(is_schedule, 0)
WHERE original_id IS NULL OR instance IS NULL OR type IS NULL OR is_finished IS NULL OR
    is_schedule IS NULL;

ALTER TABLE wpp_chats
    ENGINE = InnoDB,
    ROW_FORMAT = DEFAULT,
    DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci,
    MODIFY COLUMN id BIGINT NOT NULL FIRST,
    MODIFY COLUMN original_id BIGINT NOT NULL AFTER id,
    MODIFY COLUMN instance VARCHAR(255) NOT NULL AFTER original_id,
    MODIFY COLUMN contact_id BIGINT NULL AFTER instance,
    MODIFY COLUMN user_id INT NULL AFTER contact_id,
    MODIFY COLUMN result_id INT NULL AFTER user_id,
    MODIFY COLUMN sector_id INT NULL AFTER result_id,
    MODIFY COLUMN bot_id INT NULL AFTER sector_id,
    MODIFY COLUMN type VARCHAR(50) NOT NULL AFTER bot_id,
    MODIFY COLUMN avatar_url MEDIUMTEXT NULL AFTER type,
    MODIFY COLUMN is_finished BOOLEAN NOT NULL DEFAULT FALSE AFTER avatar_url,
    MODIFY COLUMN started_at DATETIME(3) NULL AFTER is_finished,
    MODIFY COLUMN finished_at DATETIME(3) NULL AFTER started_at,
    MODIFY COLUMN finished_by INT NULL AFTER finished_at,
    MODIFY COLUMN is_schedule BOOLEAN NOT NULL DEFAULT FALSE AFTER finished_by;

ALTER TABLE wpp_chats
    ADD PRIMARY KEY IF NOT EXISTS (id),
    ADD UNIQUE KEY IF NOT EXISTS uq_original_id (original_id),
    ADD KEY IF NOT EXISTS idx_contact_id (contact_id),
    ADD KEY IF NOT EXISTS idx_user_id (user_id),
    ADD KEY IF NOT EXISTS idx_is_finished (is_finished),
    ADD KEY IF NOT EXISTS idx_sector_id (sector_id);
