package main

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type migrateParams struct {
	Way     string `json:"way"`     // up or down
	Version int    `json:"version"` // to exactly this one; down: 0 is everything
}

func migrate(ctx context.Context, p *peer, params migrateParams) (any, error) {
	direction, target := rivermigrate.Direction(params.Way), params.Version
	if direction == rivermigrate.DirectionDown && target == 0 {
		target = -1
	}
	return nil, withMigrator(ctx, p, func(migrator *rivermigrate.Migrator[tx]) error {
		_, err := migrator.Migrate(ctx, direction, &rivermigrate.MigrateOpts{TargetVersion: target})
		return err
	})
}

// validate returns River's complaints: none where all migrations are applied.
func validate(ctx context.Context, p *peer, _ none) (any, error) {
	messages := []string{}
	err := withMigrator(ctx, p, func(migrator *rivermigrate.Migrator[tx]) error {
		result, err := migrator.Validate(ctx, &rivermigrate.ValidateOpts{})
		if err == nil {
			messages = append(messages, result.Messages...)
		}
		return err
	})
	return messages, err
}

func withMigrator(ctx context.Context, p *peer, function func(*rivermigrate.Migrator[tx]) error) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: p.logger, Schema: p.schema})
	if err != nil {
		return err
	}
	return function(migrator)
}
