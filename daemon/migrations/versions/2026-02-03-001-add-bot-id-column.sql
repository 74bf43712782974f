-- description: Add bot_id column to wpp_chats table

ALTER TABLE wpp_chats ADD COLUMN bot_id INT NULL AFTER sector_id;
