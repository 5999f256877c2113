// What a dashboard's JSON must be, by Grafana's own types; `check` compiles it.
import type { Dashboard, FieldConfigSource, Panel, RowPanel } from "@grafana/schema";
import type * as heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the values of enums, not their names.
type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer U)[]
    ? Plain<U>[]
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;

interface Query {
  refId: string;
  datasource: { type: "prometheus"; uid: "${datasource}" };
  expr: string;
  format: "time_series" | "table" | "heatmap";
  instant: boolean;
  range: boolean;
  legendFormat?: string;
}

type Shown<Type extends string, Options, Custom = Record<string, unknown>> = Plain<
  Omit<Panel, "type" | "targets" | "options" | "fieldConfig" | "transformations">
> & {
  type: Type;
  title: string;
  targets: Query[];
  options: Plain<Options>;
  fieldConfig: Plain<FieldConfigSource<Custom>>;
  transformations?: { id: string; options: Record<string, unknown> }[];
};

type Each =
  | Shown<"stat", stat.Options>
  | Shown<"table", table.Options, table.FieldConfig>
  | Shown<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | Shown<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Plain<RowPanel>;

export type Checked = Plain<Omit<Dashboard, "panels">> & { panels: Each[] };
