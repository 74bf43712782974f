-- description: Bring wpp_schedules to its form: utf8mb4, milliseconds, BIGINT ids, indexes
-- A NULL where central has none is a value that the comparison with central mends afterwards.

UPDATE wpp_schedules SET
    instance = COALESCE(instance, ''),
    contact_id = COALESCE(contact_id, 0),
    scheduled_at = COALESCE(scheduled_at, '1970-01-01'),
    schedule_date = COALESCE(schedule_date, '1970-01-01'),
    scheduled_by = COALESCE(scheduled_by, 0),
    scheduled_for = COALESCE(scheduled_for, 0)
WHERE instance IS NULL OR contact_id IS NULL OR scheduled_at IS NULL OR schedule_date IS NULL OR
    scheduled_by IS NULL OR scheduled_for IS NULL;

ALTER TABLE wpp_schedules
    ENGINE = InnoDB,
    ROW_FORMAT = DEFAULT,
    DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci,
    MODIFY COLUMN id BIGINT NOT NULL FIRST,
    MODIFY COLUMN instance VARCHAR(255) NOT NULL AFTER id,
    MODIFY COLUMN description TEXT NULL AFTER instance,
    MODIFY COLUMN contact_id BIGINT NOT NULL AFTER description,
    MODIFY COLUMN chat_id BIGINT NULL AFTER contact_id,
    MODIFY COLUMN scheduled_at DATETIME(3) NOT NULL AFTER chat_id,
    MODIFY COLUMN schedule_date DATETIME(3) NOT NULL AFTER scheduled_at,
    MODIFY COLUMN scheduled_by INT NOT NULL AFTER schedule_date,
    MODIFY COLUMN scheduled_for INT NOT NULL AFTER scheduled_by,
    MODIFY COLUMN sector_id INT NULL AFTER scheduled_for;

ALTER TABLE wpp_schedules
    ADD PRIMARY KEY IF NOT EXISTS (id),
    ADD KEY IF NOT EXISTS idx_contact_id (contact_id),
    ADD KEY IF NOT EXISTS idx_chat_id (chat_id),
    ADD KEY IF NOT EXISTS idx_scheduled_at (scheduled_at),
    ADD KEY IF NOT EXISTS idx_schedule_date (schedule_date);
