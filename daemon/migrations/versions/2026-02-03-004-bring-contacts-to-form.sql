-- description: Bring wpp_contacts to its form: utf8mb4, BIGINT ids, indexes
-- A NULL where central has none, or a key that two rows have, is a value that the comparison with
-- central mends afterwards.

UPDATE wpp_contacts SET
    instance = COALESCE(instance, ''),
    name = COALESCE(name, ''),
    is_deleted = COALESCE(is_deleted, 0)
WHERE instance IS NULL OR name IS NULL OR is_deleted IS NULL;

ALTER TABLE wpp_contacts
    ENGINE = InnoDB,
    ROW_FORMAT = DEFAULT,
    DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci,
    MODIFY COLUMN id BIGINT NOT NULL FIRST,
    MODIFY COLUMN instance VARCHAR(255) NOT NULL AFTER id,
    MODIFY COLUMN name VARCHAR(255) NOT NULL AFTER instance,
    MODIFY COLUMN phone VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL AFTER name,
    MODIFY COLUMN customer_id INT NULL AFTER phone,
    MODIFY COLUMN is_deleted BOOLEAN NOT NULL DEFAULT FALSE AFTER customer_id;

UPDATE wpp_contacts JOIN (
    SELECT instance, phone, MAX(id) AS last_id FROM wpp_contacts WHERE phone IS NOT NULL
    GROUP BY instance, phone HAVING COUNT(*) > 1
) AS twice ON twice.instance = wpp_contacts.instance AND twice.phone = wpp_contacts.phone AND wpp_contacts.id <> twice.last_id
SET wpp_contacts.phone = NULL;

ALTER TABLE wpp_contacts
    ADD PRIMARY KEY IF NOT EXISTS (id),
    ADD UNIQUE KEY IF NOT EXISTS uq_instance_phone (instance, phone),
    ADD KEY IF NOT EXISTS idx_customer_id (customer_id);
