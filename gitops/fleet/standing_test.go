package fleet

import "testing"

func TestStanding(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		find finding
		want Standing
	}{
		"no marker, nothing promoted":  {finding{}, NoMarker},
		"no marker any more":           {finding{promoted: true}, NoMarker},
		"nothing promoted":             {finding{markers: []fate{held}}, Unpromoted},
		"observed":                     {finding{promoted: true, observed: true, markers: []fate{held}}, Observed},
		"all hold":                     {finding{promoted: true, markers: []fate{held, held}}, Holds},
		"merged, branch still there":   {finding{promoted: true, markers: []fate{held}, proposal: proposal{open: true, landed: true}}, Holds},
		"waits for review":             {finding{promoted: true, markers: []fate{undone}, proposal: proposal{open: true}}, Proposed},
		"waits to fill a new marker":   {finding{promoted: true, markers: []fate{held, undone}, proposal: proposal{open: true}}, Proposed},
		"merged and reverted":          {finding{promoted: true, markers: []fate{undone}, proposal: proposal{open: true, landed: true}}, Undone},
		"closed":                       {finding{promoted: true, markers: []fate{undone}}, Undone},
		"one of two reverted":          {finding{promoted: true, markers: []fate{held, undone}}, Undone},
		"new marker":                   {finding{promoted: true, markers: []fate{held, fresh}}, Unfilled},
		"only new markers":             {finding{promoted: true, markers: []fate{fresh}}, Unfilled},
		"new marker, others reverted":  {finding{promoted: true, markers: []fate{fresh, undone}}, Undone},
		"somebody wrote":               {finding{promoted: true, markers: []fate{held, foreign}}, TakenOver},
		"somebody wrote and reverted":  {finding{promoted: true, markers: []fate{undone, foreign, fresh}}, TakenOver},
		"somebody wrote under review":  {finding{promoted: true, markers: []fate{foreign}, proposal: proposal{open: true}}, TakenOver},
		"new marker, proposal to fill": {finding{promoted: true, markers: []fate{held, fresh}, proposal: proposal{open: true}}, Proposed},
	} {
		if got := c.find.standing(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestFate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		past evidence
		want fate
	}{
		"never ours":                            {evidence{}, fresh},
		"never ours, a value of the template":   {evidence{before: true}, fresh},
		"never ours, an old value of ours":      {evidence{older: true}, undone},
		"ours, back to what was before":         {evidence{wrote: true, before: true}, undone},
		"ours, back to an older one of ours":    {evidence{wrote: true, older: true}, undone},
		"ours, and something new":               {evidence{wrote: true}, foreign},
		"ours, both before and of an older one": {evidence{wrote: true, before: true, older: true}, undone},
	} {
		if got := c.past.fate(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
