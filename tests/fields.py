"""Local databases as they stand in the field: what the system before this one has left."""

from __future__ import annotations

# utf8 with three bytes, INT ids and watermark, no milliseconds, other lengths; no bot_id.
SYNC_TABLES = """
CREATE TABLE wpp_sync_migrations (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    executed_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    INDEX idx_executed_at (executed_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
CREATE TABLE wpp_sync_state (
    entity VARCHAR(50) NOT NULL PRIMARY KEY,
    last_synced_id INT NOT NULL DEFAULT 0,
    last_synced_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    INDEX idx_last_synced_at (last_synced_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
INSERT INTO wpp_sync_migrations VALUES
    ('2025-06-01-001-create-everything', 'Set up by the old system', '2025-06-01 12:00:00');
INSERT INTO wpp_sync_state VALUES ('messages', 3, '2026-01-01 10:00:00');
"""

_MESSAGE = """
    instance VARCHAR(255) NOT NULL,
    wwebjs_id VARCHAR(255) NULL{unique},
    wwebjs_id_stanza VARCHAR(255) NULL{unique},
    waba_id VARCHAR(255) NULL{unique},
    gupshup_id VARCHAR(255) NULL{unique},
    gupshup_request_id VARCHAR(255) NULL,
    `from` VARCHAR(255) NOT NULL,
    `to` VARCHAR(255) NOT NULL,
    type VARCHAR(50) NOT NULL,
    quoted_id INT NULL,
    chat_id INT NULL,
    contact_id INT NULL,
    is_forwarded BOOLEAN NOT NULL DEFAULT FALSE,
    is_edited BOOLEAN NOT NULL DEFAULT FALSE,
    body LONGTEXT NULL,
    timestamp VARCHAR(50) NOT NULL,
    status_timestamp VARCHAR(50) NULL,
    sent_at DATETIME NOT NULL,
    status VARCHAR(50) NOT NULL,
    file_id INT NULL,
    file_name VARCHAR(255) NULL,
    file_type VARCHAR(255) NULL,
    file_size VARCHAR(255) NULL,
    user_id INT NULL,
    agent_id INT NULL,
    billing_category VARCHAR(255) NULL,
    client_id INT NULL,
"""

MESSAGES = f"""
CREATE TABLE wpp_messages (
    id INT NOT NULL PRIMARY KEY,{_MESSAGE.format(unique=" UNIQUE")}
    INDEX idx_contact_id (contact_id),
    INDEX idx_chat_id (chat_id),
    INDEX idx_sent_at (sent_at),
    INDEX idx_status (status)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
"""
CHATS = """
CREATE TABLE wpp_chats (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    original_id INT NOT NULL UNIQUE,
    instance VARCHAR(255) NOT NULL,
    contact_id INT NULL,
    user_id INT NULL,
    result_id INT NULL,
    sector_id INT NULL,
    type VARCHAR(50) NOT NULL,
    avatar_url TEXT NULL,
    is_finished BOOLEAN NOT NULL DEFAULT FALSE,
    started_at DATETIME NULL,
    finished_at DATETIME NULL,
    finished_by INT NULL,
    is_schedule BOOLEAN NOT NULL DEFAULT FALSE,
    INDEX idx_contact_id (contact_id),
    INDEX idx_user_id (user_id),
    INDEX idx_is_finished (is_finished),
    INDEX idx_sector_id (sector_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
"""
_LAST = _MESSAGE.format(unique="").replace("contact_id INT NULL", "contact_id INT NOT NULL")
OTHERS = f"""
CREATE TABLE wpp_contacts (
    id INT NOT NULL PRIMARY KEY,
    instance VARCHAR(150) NOT NULL,
    name VARCHAR(255) NOT NULL,
    phone VARCHAR(50) NULL,
    customer_id INT NULL,
    is_deleted BOOLEAN NOT NULL DEFAULT FALSE,
    UNIQUE KEY unique_phone (instance, phone),
    INDEX idx_customer_id (customer_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
CREATE TABLE wpp_schedules (
    instance VARCHAR(255) NOT NULL,
    id INT NOT NULL PRIMARY KEY,
    description VARCHAR(255) NULL,
    contact_id INT NOT NULL,
    chat_id INT NULL,
    scheduled_at DATETIME NOT NULL,
    schedule_date DATETIME NOT NULL,
    scheduled_by INT NOT NULL,
    scheduled_for INT NOT NULL,
    sector_id INT NULL,
    INDEX (contact_id), INDEX (chat_id), INDEX (scheduled_at), INDEX (schedule_date)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
CREATE TABLE wpp_contact_sectors (
    contact_id INT NOT NULL,
    sector_id INT NOT NULL,
    PRIMARY KEY (contact_id, sector_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
CREATE TABLE wpp_last_messages (
    id INT NOT NULL,{_LAST}
    PRIMARY KEY (instance, contact_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3;
"""
WHOLE = SYNC_TABLES + MESSAGES + CHATS + OTHERS

ROWS = """
INSERT INTO wpp_messages (id, instance, wwebjs_id, `from`, `to`, type, body, timestamp,
    sent_at, status)
    VALUES (1, 'nunes', 'a', '1', '2', 'chat', 'ação', '3', '2026-01-01 08:00:00', 'SENT'),
           (2, 'nunes', 'b', '1', '2', 'chat', NULL, '3', '2026-01-01 08:00:01', 'SENT'),
           (3, 'nunes', NULL, '1', '2', 'chat', '', '3', '2026-01-01 08:00:02', 'READ');
INSERT INTO wpp_chats (id, original_id, instance, type) VALUES (1, 1, 'nunes', 'ACTIVE'),
    (2, 2, 'nunes', 'RECEPTIVE');
INSERT INTO wpp_contacts (id, instance, name, phone) VALUES (1, 'nunes', 'Ana', '1'),
    (2, 'nunes', 'Bia', NULL);
INSERT INTO wpp_contact_sectors VALUES (1, 1), (2, 1);
"""

LACKING_IN_MESSAGES = """
ALTER TABLE wpp_messages DROP COLUMN agent_id, DROP COLUMN billing_category, DROP COLUMN client_id,
    DROP INDEX idx_status, DROP INDEX idx_chat_id;
"""
LACKING = (
    LACKING_IN_MESSAGES
    + """
ALTER TABLE wpp_chats DROP COLUMN original_id, DROP COLUMN sector_id, DROP INDEX idx_user_id;
ALTER TABLE wpp_schedules DROP COLUMN sector_id;
ALTER TABLE wpp_contacts DROP INDEX unique_phone;
"""
)
# Without its keys, a table may hold what they would have refused.
DUPLICATES = """
ALTER TABLE wpp_messages DROP INDEX wwebjs_id, MODIFY type VARCHAR(50) NULL,
    MODIFY sent_at DATETIME NULL;
UPDATE wpp_messages SET wwebjs_id = 'twice';
UPDATE wpp_messages SET type = NULL, sent_at = NULL WHERE id = 2;
ALTER TABLE wpp_contacts DROP INDEX unique_phone;
UPDATE wpp_contacts SET phone = '1';
"""

STATES = {
    "nothing": "",
    "the sync tables alone": SYNC_TABLES,
    "everything": WHOLE + ROWS,
    "messages and chats alone": SYNC_TABLES + MESSAGES + CHATS,
    "bot_id by hand": WHOLE + "ALTER TABLE wpp_chats ADD COLUMN bot_id INT NULL AFTER sector_id;",
    "bot_id at the end": WHOLE + "ALTER TABLE wpp_chats ADD COLUMN bot_id INT NULL;",
    "columns and indexes missing": WHOLE + ROWS + LACKING,
    "keys missing, rows that they refuse": WHOLE + ROWS + DUPLICATES,
    "an old row format": "SET innodb_strict_mode = 0;"
    + (WHOLE + LACKING_IN_MESSAGES + ROWS)
    .replace("ENGINE=InnoDB", "ENGINE=InnoDB ROW_FORMAT=COMPACT")
    .replace("instance VARCHAR(255) NOT NULL", "instance VARCHAR(150) NOT NULL"),
    "another engine and character set": (WHOLE + ROWS)
    .replace("ENGINE=InnoDB", "ENGINE=MyISAM")
    .replace("utf8mb3", "latin1"),
    "utf8mb4 already": (WHOLE + ROWS).replace("utf8mb3", "utf8mb4 COLLATE utf8mb4_general_ci"),
}  # fmt: skip
