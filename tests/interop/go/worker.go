package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverlog"
)

// behaviour is what a job's args ask of its worker; ours.py reads the same.
type behaviour struct {
	Do     string            `json:"do"`
	Hold   bool              `json:"hold"`  // wait until the job is released before all of that
	Times  int               `json:"times"` // do it at the first so many attempts, then complete; 0: always
	Text   string            `json:"text"`
	Deaf   bool              `json:"deaf"` // a blocked job that goes on when it is told to end
	Millis int               `json:"ms"`
	Log    string            `json:"log"`
	Output json.RawMessage   `json:"output"`
	Set    map[string]string `json:"set"`
	Steps  []stepParams      `json:"steps"`
}

type worker struct {
	river.WorkerDefaults[textArgs]
	peer *peer
}

func workers(p *peer, kinds []string) *river.Workers {
	bundle := river.NewWorkers()
	for _, kind := range kinds {
		river.AddWorkerArgs(bundle, textArgs{kind: kind}, &worker{peer: p})
	}
	return bundle
}

func (w *worker) Work(ctx context.Context, job *river.Job[textArgs]) error {
	say(map[string]any{"event": "working", "job": jobFields(job.JobRow)})
	var asked behaviour
	if err := json.Unmarshal(job.Args.text, &asked); err != nil {
		return nil // args of any other form ask for nothing
	}
	if asked.Hold {
		<-w.peer.releaseOf(job.ID)
	}
	for key, value := range asked.Set {
		if err := river.MetadataSet(ctx, key, value); err != nil {
			return err
		}
	}
	if asked.Log != "" {
		riverlog.Logger(ctx).Info(asked.Log)
	}
	if asked.Output != nil {
		if err := river.RecordOutput(ctx, asked.Output); err != nil {
			return err
		}
	}
	if asked.Times > 0 && job.Attempt > asked.Times {
		return nil
	}
	return w.act(ctx, job, asked)
}

func (w *worker) act(ctx context.Context, job *river.Job[textArgs], asked behaviour) error {
	switch asked.Do {
	case "":
		return nil
	case "block":
		return w.block(ctx, job, asked.Deaf, asked.Text)
	case "cancel":
		return river.JobCancel(errors.New(asked.Text))
	case "fail":
		return errors.New(asked.Text)
	case "panic":
		panic(asked.Text)
	case "sleep":
		time.Sleep(milliseconds(asked.Millis))
		return nil
	case "snooze":
		var metadata struct {
			Snoozes int `json:"snoozes"`
		}
		if err := json.Unmarshal(job.Metadata, &metadata); err != nil || metadata.Snoozes > 0 {
			return err
		}
		return river.JobSnooze(milliseconds(asked.Millis))
	case "steps":
		return takeSteps(ctx, w.peer, job, asked.Steps)
	}
	return fmt.Errorf("unknown behaviour %q", asked.Do)
}

// block waits until the job is released or told to end; it fails where it has a text.
func (w *worker) block(ctx context.Context, job *river.Job[textArgs], deaf bool, text string) error {
	released := w.peer.releaseOf(job.ID)
	select {
	case <-ctx.Done():
		say(map[string]any{"event": "told", "job": jobFields(job.JobRow)})
		if !deaf {
			return ctx.Err()
		}
		<-released
	case <-released:
	}
	if text != "" {
		return errors.New(text)
	}
	return nil
}
