// Steps one schema through River's own migrations, so that ours can be compared with them.
//
//	rivermigrate version                     the version of River this program is built with
//	rivermigrate up|down SCHEMA VERSION      to exactly that version of line main (down: 0 is everything)
//	rivermigrate validate SCHEMA             exit 1, and River's messages, unless River finds all applied
//
// DATABASE_URL names the database.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "rivermigrate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == "version" {
		fmt.Println(riverVersion())
		return nil
	}
	if len(args) < 2 {
		return errors.New("usage: version | up SCHEMA VERSION | down SCHEMA VERSION | validate SCHEMA")
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{
		Logger: slog.New(slog.DiscardHandler),
		Schema: args[1],
	})
	if err != nil {
		return err
	}
	switch args[0] {
	case "validate":
		result, err := migrator.Validate(ctx, &rivermigrate.ValidateOpts{})
		if err != nil {
			return err
		}
		if !result.OK {
			return errors.New(strings.Join(result.Messages, "; "))
		}
		return nil
	case "up", "down":
		return migrate(ctx, migrator, args)
	}
	return fmt.Errorf("unknown command %q", args[0])
}

func migrate[T any](ctx context.Context, migrator *rivermigrate.Migrator[T], args []string) error {
	if len(args) != 3 {
		return errors.New("a version is needed")
	}
	version, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	direction := rivermigrate.DirectionUp
	if args[0] == "down" {
		direction = rivermigrate.DirectionDown
		if version == 0 {
			version = -1
		}
	}
	_, err = migrator.Migrate(ctx, direction, &rivermigrate.MigrateOpts{TargetVersion: version})
	return err
}

func riverVersion() string {
	info, _ := debug.ReadBuildInfo()
	for _, dep := range info.Deps {
		if dep.Path == "github.com/riverqueue/river" {
			return dep.Version
		}
	}
	return "unknown"
}
