-- description: Remember in wpp_sync_quarantine which rows an operator has given up

ALTER TABLE wpp_sync_quarantine ADD COLUMN discarded_at TIMESTAMP NULL DEFAULT NULL COMMENT 'given up by an operator: not tried again';
