-- description: Bring wpp_messages to its form: utf8mb4, milliseconds, BIGINT ids, LONGTEXT file_name, indexes
-- A NULL where central has none, or a key that two rows have, is a value that the comparison with
-- central mends afterwards.

UPDATE wpp_messages SET
    instance = COALESCE(instance, ''),
    `from` = COALESCE(`from`, ''),
    `to` = COALESCE(`to`, ''),
    type = COALESCE(type, ''),
    is_forwarded = COALESCE(is_forwarded, 0),
    is_edited = COALESCE(is_edited, 0),
    timestamp = COALESCE(timestamp, ''),
    sent_at = COALESCE(sent_at, '1970-01-01'),
    status = COALESCE(status, '')
WHERE instance IS NULL OR `from` IS NULL OR `to` IS NULL OR type IS NULL OR is_forwarded IS NULL
    OR is_edited IS NULL OR timestamp IS NULL OR sent_at IS NULL OR status IS NULL;

ALTER TABLE wpp_messages
    ENGINE = InnoDB,
    ROW_FORMAT = DEFAULT,
    DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci,
    MODIFY COLUMN id BIGINT NOT NULL FIRST,
    MODIFY COLUMN instance VARCHAR(255) NOT NULL AFTER id,
    MODIFY COLUMN wwebjs_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL AFTER instance,
    MODIFY COLUMN wwebjs_id_stanza VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL AFTER wwebjs_id,
    MODIFY COLUMN waba_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL AFTER wwebjs_id_stanza,
    MODIFY COLUMN gupshup_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL AFTER waba_id,
    MODIFY COLUMN gupshup_request_id VARCHAR(255) NULL AFTER gupshup_id,
    MODIFY COLUMN `from` VARCHAR(255) NOT NULL AFTER gupshup_request_id,
    MODIFY COLUMN `to` VARCHAR(255) NOT NULL AFTER `from`,
    MODIFY COLUMN type VARCHAR(255) NOT NULL AFTER `to`,
    MODIFY COLUMN quoted_id BIGINT NULL AFTER type,
    MODIFY COLUMN chat_id BIGINT NULL AFTER quoted_id,
    MODIFY COLUMN contact_id BIGINT NULL AFTER chat_id,
    MODIFY COLUMN is_forwarded BOOLEAN NOT NULL DEFAULT FALSE AFTER contact_id,
    MODIFY COLUMN is_edited BOOLEAN NOT NULL DEFAULT FALSE AFTER is_forwarded,
    MODIFY COLUMN body LONGTEXT NULL AFTER is_edited,
    MODIFY COLUMN timestamp VARCHAR(255) NOT NULL AFTER body,
    MODIFY COLUMN status_timestamp VARCHAR(255) NULL AFTER timestamp,
    MODIFY COLUMN sent_at DATETIME(3) NOT NULL AFTER status_timestamp,
    MODIFY COLUMN status VARCHAR(50) NOT NULL AFTER sent_at,
    MODIFY COLUMN file_id BIGINT NULL AFTER status,
    MODIFY COLUMN file_name LONGTEXT NULL AFTER file_id,
    MODIFY COLUMN file_type VARCHAR(255) NULL AFTER file_name,
    MODIFY COLUMN file_size VARCHAR(255) NULL AFTER file_type,
    MODIFY COLUMN user_id INT NULL AFTER file_size,
    MODIFY COLUMN agent_id INT NULL AFTER user_id,
    MODIFY COLUMN billing_category VARCHAR(255) NULL AFTER agent_id,
    MODIFY COLUMN client_id INT NULL AFTER billing_category;

UPDATE wpp_messages JOIN (
    SELECT wwebjs_id, MAX(id) AS last_id FROM wpp_messages WHERE wwebjs_id IS NOT NULL
    GROUP BY wwebjs_id HAVING COUNT(*) > 1
) AS twice ON twice.wwebjs_id = wpp_messages.wwebjs_id AND wpp_messages.id <> twice.last_id
SET wpp_messages.wwebjs_id = NULL;

UPDATE wpp_messages JOIN (
    SELECT wwebjs_id_stanza, MAX(id) AS last_id FROM wpp_messages WHERE wwebjs_id_stanza IS NOT NULL
    GROUP BY wwebjs_id_stanza HAVING COUNT(*) > 1
) AS twice ON twice.wwebjs_id_stanza = wpp_messages.wwebjs_id_stanza AND wpp_messages.id <> twice.last_id
SET wpp_messages.wwebjs_id_stanza = NULL;

UPDATE wpp_messages JOIN (
    SELECT waba_id, MAX(id) AS last_id FROM wpp_messages WHERE waba_id IS NOT NULL
    GROUP BY waba_id HAVING COUNT(*) > 1
) AS twice ON twice.waba_id = wpp_messages.waba_id AND wpp_messages.id <> twice.last_id
SET wpp_messages.waba_id = NULL;

UPDATE wpp_messages JOIN (
    SELECT gupshup_id, MAX(id) AS last_id FROM wpp_messages WHERE gupshup_id IS NOT NULL
    GROUP BY gupshup_id HAVING COUNT(*) > 1
) AS twice ON twice.gupshup_id = wpp_messages.gupshup_id AND wpp_messages.id <> twice.last_id
SET wpp_messages.gupshup_id = NULL;

ALTER TABLE wpp_messages
    ADD PRIMARY KEY IF NOT EXISTS (id),
    ADD UNIQUE KEY IF NOT EXISTS uq_wwebjs_id (wwebjs_id),
    ADD UNIQUE KEY IF NOT EXISTS uq_wwebjs_id_stanza (wwebjs_id_stanza),
    ADD UNIQUE KEY IF NOT EXISTS uq_waba_id (waba_id),
    ADD UNIQUE KEY IF NOT EXISTS uq_gupshup_id (gupshup_id),
    ADD KEY IF NOT EXISTS idx_contact_id (contact_id),
    ADD KEY IF NOT EXISTS idx_chat_id (chat_id),
    ADD KEY IF NOT EXISTS idx_sent_at (sent_at),
    ADD KEY IF NOT EXISTS idx_status (status);
